"""Training in the paper's stages: distil, fine-tune, Global-Net by IAD, DAD by stains; then calibration."""
