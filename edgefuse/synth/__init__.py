"""The built-in data set: scenes, shapes, a ray caster, and models of the sensors."""
