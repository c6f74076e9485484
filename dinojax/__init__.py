"""dinojax: self-supervised pretraining of DINOv2/DINOv3-class vision backbones in JAX."""

__version__ = "0.1.0"
