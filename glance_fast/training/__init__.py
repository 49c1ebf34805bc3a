"""Training in stages: Local-Net (distilled models only), Global-Net by IAD, DAD by stains; then calibration."""
