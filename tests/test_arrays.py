"""Arrays that are kept for the same command again."""

import numpy as np

from kinetic.store.arrays import kept


def test_arrays_are_kept_for_what_they_were_made_for(tmp_path):
    """Kills: arrays of another protocol, a damaged file that ends everything, arrays that are made twice."""
    calls = []

    def make():
        calls.append(1)
        return {"x": np.arange(3.0), "about_it": np.array([len(calls)])}

    path = tmp_path / "deep/kept.npz"
    first = kept(path, {"seeds": "0-3"}, make)
    again = kept(path, {"seeds": "0-3"}, make)
    assert again.keys() == first.keys() == {"x", "about_it"}
    assert again["about_it"].tolist() == [1]
    assert kept(path, {"seeds": "0-4"}, make)["about_it"].tolist() == [2]
    path.write_bytes(path.read_bytes()[:50])
    assert kept(path, {"seeds": "0-4"}, make)["about_it"].tolist() == [3]
