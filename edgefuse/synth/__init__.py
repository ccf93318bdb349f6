"""The built-in synthetic data set: scenes, shapes, a ray caster, and sensor models."""
