"""Export of a run to ONNX files in FP32, FP16 and INT8. Requires PyTorch."""
