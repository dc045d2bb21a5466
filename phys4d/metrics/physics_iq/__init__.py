"""Physics-IQ, Original and Verified: how close generated videos come to filmed physics.

    python -m phys4d.metrics.physics_iq --real BENCHMARK/split-videos/testing/8FPS --generated VIDEOS --fps 8

Each of 66 scenarios was filmed from 3 views in 2 takes. A model continues the first frame of take 1; its
video is compared with take 1 in units of the physical variance, which is how take 2 compares with take 1.

    folders    names, ids, and what belongs to what
    videos     mp4 files, read or refused
    clips      motion masks; RGB and masks at a quarter of the resolution
    agreement  the four metrics of two clips
    score      both scores from the metrics of all views
    runs       score folders of generated videos, in parallel processes
    prompts    what a model needs for generating them

A video that fools these metrics need not be physical: one played backwards keeps most of its score, noise of
10 grey levels costs nothing, and scores at different frame rates cannot be compared. It is an anchor to
published numbers and never a reward.

Source: Motamed et al., Do generative video models understand physical principles?, 2025 (arXiv:2501.09038),
and the benchmark's scoring code; Verified: arXiv:2606.18943.
"""
