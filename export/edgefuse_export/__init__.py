"""Export of a trained run to ONNX files in a bundle, compared with the PyTorch model, and to TensorRT engines."""
