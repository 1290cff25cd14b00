"""One run as consistency sees it: what does not fit together is refused."""

import numpy as np
import pytest

from sae_core.consistency import compare_runs as consistency
from sae_core.consistency.runs import Run


def test_a_run_is_the_same_class_wherever_it_is_imported_from():
    assert consistency.Run is Run


def test_features_that_fired_are_alive():
    assert Run("a", np.eye(3), np.array([0.0, 0.1, 1.0])).alive.tolist() == [False, True, True]
    assert Run("a", np.eye(3)).alive is None


def test_frequencies_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"seed 0: expected one frequency a feature, shape \(2,\), got \(3,\)"):
        Run("seed 0", np.eye(2), np.zeros(3))
    for bad in (-0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="negative or not finite"):
            Run("seed 0", np.eye(2), np.array([0.1, bad]))


def test_a_transposed_encoder_is_refused_by_its_shape():
    W_dec = np.ones((5, 3))
    assert Run("seed 0", W_dec, W_enc=np.ones((3, 5))).W_enc is not None
    with pytest.raises(ValueError, match=r"seed 0: an encoder has one column a feature.*\(_, 5\), got \(5, 3\)"):
        Run("seed 0", W_dec, W_enc=W_dec)


def test_the_encoder_of_a_transcoder_may_have_another_width():
    assert Run("seed 0", np.ones((5, 3)), W_enc=np.ones((4, 5))).W_enc is not None


def test_a_decoder_at_step_0_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"step 0 must have the shape of the decoder, \(5, 3\), got \(4, 3\)"):
        Run("seed 0", np.ones((5, 3)), initial=np.ones((4, 3)))
