"""The gated-fusion classifier in PyTorch: input decoding, backbones, fusion, and the complete model.

Source: Oyedotun, Aouada, Ottersten, "Learning to Fuse Latent Representations for Multimodal Data" (ICASSP 2019).
"""
