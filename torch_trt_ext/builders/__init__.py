"""What builds engines: :func:`torch_trt_ext.builders.retinanet.build_retinanet_decode` and its parts."""
