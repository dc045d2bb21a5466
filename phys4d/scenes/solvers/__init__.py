"""Continuum solvers for what MuJoCo has no model of: liquids, sand, melting, heat flow and hot air.

Arrays in, arrays out; SI units, z up. One thread and no fast-math, so a run is bitwise reproducible.
"""
