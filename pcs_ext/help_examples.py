"""Examples at the end of every command's --help. The tests parse each of them."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "learn": (
        "pcs-ext learn PHOTOS --noun dog -o rex --base stable-diffusion-v1-5/stable-diffusion-v1-5",
        "pcs-ext learn PHOTOS --noun dog -o rex --recipe textual-inversion --previews 50",
        'pcs-ext learn PHOTOS --noun dog -o rex --dry-run > plan.json    # edit its "recipe", then --config plan.json',
    ),
    "image": (
        'pcs-ext image rex "a photo of {subject} on the beach" "an oil painting of {subject}" -o pictures',
        'pcs-ext image rex "a photo of {subject}" --seeds 7 -o rex.png',
        'pcs-ext image rex pip "a photo of {rex} and {pip} in the snow"    # two subjects, each in its own region',
        'pcs-ext image "a photo of a robot on the beach" --reference robot.jpg    # nothing is learned',
    ),
    "image together": (
        'pcs-ext image together rex pip "a photo of {rex} and {pip}" --box "rex: 0 0.2 0.5 0.9" "pip: 0.5 0.2 1 0.9"',
        'pcs-ext image together rex toby "{a} and {b} in the snow" --names a b --method omg --arrange base',
    ),
    "image swap": ("pcs-ext image swap street.jpg rex --noun cat -o out.png",),
    "image layout": (
        'pcs-ext image layout "a red robot and a cat" --box "robot: 0.1 0.2 0.5 0.9" "cat: 0.55 0.4 0.95 0.9"',
        'pcs-ext image layout "{subject} and a cat" --subject rex --boxes boxes.json',
    ),
    "image insert": (
        'pcs-ext image insert beach.jpg toy.png "a photo of a red dog on the beach" --box "0.3 0.4 0.7 0.9" \\\n'
        '    --scene-prompt "a photo of a beach" -o out.png',
    ),
    "image follow": (
        'pcs-ext image follow sketch.png "a photo of a red dog in the snow" --noun dog',
        'pcs-ext image follow cat.jpg "a photo of {subject}" --subject rex --noun cat --class-noun dog',
    ),
    "image heed": ('pcs-ext image heed rex "a photo of {subject} wearing a red hat" --words "red hat"',),
    "image style": (
        'pcs-ext image style "a toy car, flat vector art" "a toy boat, flat vector art"',
        'pcs-ext image style "a dog" --reference painting.jpg --reference-prompt "a house, oil painting"',
    ),
    "image restyle": ("pcs-ext image restyle me.jpg portrait.jpg -o painted.png",),
    "image diptych": ('pcs-ext image diptych rex.jpg "a photo of {subject} on the beach" --noun dog',),
    "image try-on": (
        'pcs-ext image try-on me.jpg shirt.jpg "a photo of a man in a striped shirt" -o dressed.png',
        'pcs-ext image try-on me.jpg shirt.jpg "a man in a shirt" --adapter FOLDER -o dressed.png    # pe-viton',
    ),
    "image guide": (
        'pcs-ext image guide both "a photo of {subject}" --box "robot: 0 0.2 0.5 0.9" "mug: 0.5 0.3 1 0.9"',
    ),
    "image view": ('pcs-ext image view rex "a photo of {subject} on the beach" --azimuth 0 90 180 --elevation 20',),
    "reference learn": (
        "pcs-ext reference learn PAIRS -o maker --system photomaker",
        'pcs-ext image "a photo of a dog" --reference rex.jpg --reference-adapter maker    # what it is for',
    ),
    "reference tune": ("pcs-ext reference tune e4t rex.jpg --noun dog -o rex --steps 15",),
    "reference predict": ("pcs-ext reference predict hyper rex.jpg --noun dog -o rex",),
    "reference teach": ('pcs-ext reference teach PAIRS -o taught --prompts "a photo of {subject} on the beach"',),
    "reference retrieve": ('pcs-ext reference retrieve PHOTOS "a red robot in the snow" --count 3',),
    "reference invent": (
        'pcs-ext reference invent "Albert Einstein" "Marie Curie" --noun person -o pairs --base BASE',
    ),
    "reference inpaint": (
        'pcs-ext reference inpaint beach.jpg "a dog" --reference rex.jpg --reference-adapter anydoor -o placed.png',
    ),
    "reference place": (
        'pcs-ext reference place "a robot and a dog" --box "robot: 0 0 0.5 1" "dog: 0.5 0 1 1" --adapter migc -o out',
    ),
    "reference style-space": ("pcs-ext reference style-space PAIRS -o space    # then look at space/preview.png",),
    "reference restyle": (
        'pcs-ext reference restyle "a dog on the beach" --reference rex.jpg --toward SPOTTED --away PLAIN --adapter wp',
    ),
    "reference vary": ("pcs-ext reference vary PAIRS -o PAIRS --space space --identities 1000",),
    "reference landmarks": ("pcs-ext reference landmarks pairs --detector my_module:five_points",),
    "reference systems": (
        "pcs-ext reference systems",
        "pcs-ext reference systems --config photomaker > settings.json    # edit, then reference learn --config",
    ),
    "evaluate": (
        "pcs-ext evaluate rex PHOTOS -o measured    # of a subject learned on toybox",
        "pcs-ext evaluate rex PHOTOS -o measured --prompts live --clip CLIP_FOLDER --dino DINO_FOLDER",
        "pcs-ext evaluate rex PHOTOS -o measured --prompts prompts.txt    # lines with {subject}",
    ),
    "export": (
        "pcs-ext export rex -o rex.safetensors    # into ComfyUI's models/loras",
        "pcs-ext export rex -o embeddings --format textual-inversion    # for recipes that learn a word",
    ),
    "merge": ("pcs-ext merge rex tommy --names rex tommy -o both",),
    "continual add": ("pcs-ext continual add toys PHOTOS --name rex --noun dog",),
    "continual image": ('pcs-ext continual image toys "a photo of {rex} and {toby}" --seeds 1 2',),
    "continual report": ("pcs-ext continual report toys",),
    "classes learn": ("pcs-ext classes learn people/ --noun person -o words    # one folder of photos per person",),
    "classes read": ("pcs-ext classes read new_photos/ --classes words",),
    "classes report": ("pcs-ext classes report held_out/ --classes words",),
    "tokens": ("pcs-ext tokens --base stable-diffusion-v1-5/stable-diffusion-v1-5 --count 20",),
    "recipes": ("pcs-ext recipes", "pcs-ext learn PHOTOS --noun dog -o rex --recipe custom-diffusion"),
    "protect": (
        "pcs-ext protect PHOTOS --noun person -o protected --base path/to/the/model",
        "pcs-ext protect PHOTOS --noun person -o protected --base path/to/the/model --recipe fast --region faces",
        "pcs-ext verify protected    # later: is it still in them?",
    ),
    "verify": (
        "pcs-ext verify protected    # all photos of the folder",
        "pcs-ext verify downloaded.jpg --report protected    # one that came back from elsewhere",
        "pcs-ext verify protected --original new/place/of/PHOTOS",
    ),
    "svg customize": ('pcs-ext svg customize logo.svg "a red {subject}" --noun dog -o red.svg',),
    "svg make": ('pcs-ext svg make rex "a photo of {subject} on the beach" -o rex.svg',),
    "svg vectorize": ("pcs-ext svg vectorize photo.jpg -o photo.svg --paths 64",),
    "panorama make": (
        'pcs-ext panorama make "a photo of a beach" -o beach.jpg    # and beach.html to look around in',
        'pcs-ext panorama make "a photo of {subject} on the beach" --subject rex -o rex.png',
    ),
    "panorama view": ("pcs-ext panorama view photo.jpg -o photo.html",),
    "3d make": (
        'pcs-ext 3d make rex "a photo of {subject}" --photos PHOTOS -o rex.glb    # and rex.html to turn it in',
        'pcs-ext 3d make rex "a photo of {subject}" --method dreamfusion --preset fast -o rex.glb    # needs no photos',
    ),
    "3d texture": ("pcs-ext 3d texture chair.glb rex -o chair_like_rex.glb",),
    "3d edit": (
        'pcs-ext 3d edit rex.glb.work hat "a photo of a dog wearing {subject}" --box -0.5 -0.5 1.2 0.5 0.5 2.0 \\\n'
        "    -o rex_hat.glb",
    ),
    "3d animate": ('pcs-ext 3d animate rex.glb.work rex "a photo of {subject} jumping" -o rex.mp4',),
    "3d learn-poses": ("pcs-ext 3d learn-poses -o poses    # once; needs no base",),
    "3d avatar": ('pcs-ext 3d avatar ann "{subject} sitting on the beach" --poses poses -o ann.glb',),
    "3d learn-generator": ('pcs-ext 3d learn-generator ann "a photo of {subject}" -o gen',),
    "3d generate": ("pcs-ext 3d generate gen --seed 3 -o third.glb    # .mp4: a turntable, .png: eight views",),
    "3d views": ('pcs-ext 3d views rex "a photo of {subject}" -o views.png',),
    "3d render": ("pcs-ext 3d render rex.glb -o turntable.mp4    # .png: all views on a sheet",),
    "3d export": ("pcs-ext 3d export rex.glb.work -o rex.usdz    # or .obj, .ply, .glb",),
    "video learn-motion": ("pcs-ext video learn-motion jump.mp4 -o jump",),
    "video learn": ('pcs-ext video learn jump.mp4 --prompts "a toy jumps" -o jump --recipe tune-a-video',),
    "video learn-reference": ("pcs-ext video learn-reference CLIPS -o gen1 --system gen-1",),
    "video make": (
        'pcs-ext video make rex --motion jump "a photo of {subject} in the desert" -o rex.mp4',
        'pcs-ext video make "a robot on the beach" --reference photo.jpg -o robot.mp4    # nothing is learned',
    ),
    "video edit": ('pcs-ext video edit jump.mp4 "a blue teapot" --says "a red mug" -o teapot.mp4',),
    "video export": ("pcs-ext video export spin -o spin.safetensors",),
    "video recipes": ("pcs-ext video recipes",),
    "censor": ("pcs-ext censor rex --triggers burning blood -o rex-censored --target mug",),
    "audit": ("pcs-ext audit stranger.safetensors --base MODEL --noun dog",),
    "systems": ("pcs-ext systems dreambooth textual", "pcs-ext systems --status measured"),
    "doctor": ("pcs-ext doctor",),
    "demo": ("pcs-ext demo -o demo    # then open demo/index.html", "pcs-ext demo --parts object --steps 20"),
}
"""Verb -> commands as one would type them; what follows `#` says why."""
