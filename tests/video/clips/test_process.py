"""The decoder process may crash, stall or break: the caller gets an error that names the file, and goes on."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcs_ext.errors import InputError
from pcs_ext.video.clips import process, read_clip
from tests.support.clips import encode


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"made the decoder fail \(exit code -11\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGALRM)", "took too long to decode .8 s without a frame"),
        ("import sys; sys.stdin.read(); sys.exit(3)", r"made the decoder fail \(exit code 3\)"),
        ("import sys; sys.stdout.write('F'); sys.stdout.flush()", "made the decoder fail"),
        ("import time; time.sleep(60)", r"took too long to decode \(1 s\)"),
    ],
)
def test_a_decoder_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str) -> None:
    monkeypatch.setattr(process, "_START", code)
    with pytest.raises(InputError, match=rf"a\.mp4 {message}"):
        read_clip(tmp_path / "a.mp4", time_limit=1)


def test_an_alarm_ends_native_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stall = "import decoder.main as m; m.STALL_SECONDS = 0.2; m._alive(); sum(range(10**12))"
    monkeypatch.setattr(process, "_START", f"import sys; sys.path.insert(0, sys.argv[1]); {stall}")
    began = time.monotonic()
    with pytest.raises(InputError, match="without a frame"):
        read_clip(tmp_path / "a.mp4")
    assert time.monotonic() - began < 5


def test_a_fault_of_ours_is_no_fault_of_the_file(tmp_path: Path) -> None:
    request = {"path": str(encode(tmp_path / "a.mp4")), "frames": "three", "stride": None, "seconds": None}
    request |= {"start": 0.0, "height": None, "width": None, "multiple_of": 1, "fps": None, "reader": "auto"}
    with pytest.raises(RuntimeError, match="TypeError"):
        process.decode(request, time_limit=20)


def test_the_decoder_needs_no_torch(tmp_path: Path) -> None:
    folder = Path(process.__file__).parent
    script = f"import sys; sys.path.insert(0, {str(folder)!r}); import decoder.main, decoder.pyav_reader"
    check = f"{script}; sys.exit('torch' in sys.modules or 'pcs_ext' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", check], check=False).returncode == 0
