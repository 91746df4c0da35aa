"""`python -m pcs_ext` is `pcs-ext`."""

from pcs_ext.cli import main

if __name__ == "__main__":
    main()
