"""Export: from a trained run to a bundle whose ONNX file was proved to give the same answers."""
