"""TensorRT engines from ONNX files. Runs on the device, without PyTorch."""
