"""DETR: static, dynamic and batched shapes; float32, 16 bits and 8 bits; latency, throughput, errors, layers."""
