"""Input and output: files, images, JSON and arrays given by users, and text shown to them.

Each kind has one module, and `tests/test_one_place.py` checks that no other code bypasses it:

    files         replace a file or folder atomically
    new_files     add files and folders without replacing any; locks
    log_file      append lines to a log that is rotated by size
    temporaries   temporary names, and cleaning up after killed commands
    json_files    read and write JSON
    images        read and write images; image_files checks them before they are decoded
    arrays        read and write .npy and .npz
    text_files    read lists and meshes
    text          names and messages as shown to users
    environment   package versions and the git commit
    memory        available memory
    workers       processes that end with the command; threads
    folder_kinds  whether a folder is a run, a bundle or a data set, and the next command for it
    onnx_metadata read the metadata of an ONNX file
"""
