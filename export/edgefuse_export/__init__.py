"""Export of a trained run to a bundle of ONNX files whose outputs were compared with the PyTorch model, and TensorRT engines."""
