"""Files that are wrong, and what must happen to them: read, or refused in one line that names the file.

`cases` lists the files of the shared set one by one, each with its reaction. `generated` makes others from a seed:
valid folders and files, changed in one to three places (`mutations`), of the kinds

    coco, yolo, voc   data sets: annotations, pictures, names and links       `data check`, training to its first batch
    images            pictures of all formats                                 `predict`
    results           detections and ground truth                             `evaluate`
    weights           npz, safetensors, PyTorch's zip and pickle              `convert`
    exported, configs, records    folders of models and of runs               all that opens them

Each goes through the commands in one process (`harness`). A command must end with exit code 0 and counts that add up to
what was given, or with one line a fault that names its file; without a traceback, within time and memory, writing
nowhere but in its output folder, starting nothing. The suite runs a few of them, and by hand

    python -m tests.nasty --cases 1000 --seed 7                 of each kind
    python -m tests.nasty --cases 5000 --kinds coco images

any number. A case that is not as it must be is printed with the command that makes it again.
"""
