"""The diffusion model: first stage, style, U-Net, denoiser, samplers, and their training."""
