"""Video diffusion models behind one protocol, and the heads that read geometry from them."""
