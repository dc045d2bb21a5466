"""4D world consistency: do depth, motion and objects of a video describe one physical world?

    depth         do depth maps agree with one another and with the truth
    flow          is motion that of the truth, and does it lead back where it came from
    clouds        where objects go in 3D, against the truth
    conservation  energy and momentum of objects that move freely
    free_fall     a falling object's masks against the truth

Without truth, `depth_warp_l1`, `depth_flicker`, `flow_cycle_error` and conservation can be measured; a frozen
video passes the first three; energy refuses it and momentum shows it. Frames and units as in `phys4d.types`.
"""
