"""From an ONNX file to a TensorRT engine. Runs on the device, without torch."""
