"""What :func:`torch_trt_ext.optimize` is made of, one step a module."""
