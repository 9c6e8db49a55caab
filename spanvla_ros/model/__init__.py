"""The network in torch: VLM, action expert, flow matching."""
