"""Everything that crosses the program's edge: files, images, JSON and arrays that a user can name, and text for people.

Each kind has one place, and `tests/test_one_place.py` proves that nothing goes round it:

    files         replace a file or folder, whole or not at all
    json_files    read and write JSON
    images        read and write images; image_files looks at them before they are decoded
    arrays        read and write .npy and .npz
    text_files    read lists and meshes
    text          names and messages as people see them
    environment   versions of packages, and the git commit
    memory        how much of it is left
    workers       processes that end with the command
    kinds         what a folder is, and the next command for it
    onnx_metadata read what an ONNX file says about itself
"""
