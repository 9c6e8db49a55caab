"""What the cameras see: meshes, looks, the renderer, and class bits by geometry."""
