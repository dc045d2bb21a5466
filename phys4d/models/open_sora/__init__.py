"""Open-Sora v1.2: its transformer, video autoencoder and rectified flow, on plain PyTorch."""
