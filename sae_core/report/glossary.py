"""What the words of the page mean: part of *report*."""

from sae_core.report.table import SHARED_AT

SHARED_INITIALISATION = (
    "Seeds that start from the same weights keep features in common that training never found: PW-MCC then says how "
    "little training moved them, not what an independent run would find. Its interval, its kappa and every comparison "
    "with another variant are void. Train the seeds again from weights drawn by different seeds."
)
"""What a shared initialisation means for a reader."""

GLOSSARY = (
    (
        "PW-MCC",
        "Pairwise mean correlation coefficient: the decoder directions of two seeds are matched one to one so that the "
        "mean absolute cosine is largest (exact assignment), and that mean is averaged over all pairs of seeds. "
        "1: both found the same features, up to order and sign. Never compare it without its null.",
    ),
    (
        "95 % CI",
        "Interval over seeds (jackknife). Pairs share seeds, so the spread over pairs would be far too narrow. It says "
        "what other seeds of the same recipe would give, nothing about other text or another layer.",
    ),
    (
        "null",
        "What dictionaries score that share only their shape: one of each pair has its principal axes flipped at "
        "random, so that its Gram matrix and second moment stay as they are. Matching many directions in few "
        "dimensions gives much by chance alone.",
    ),
    (
        "kappa",
        "Agreement beyond chance, (PW-MCC − null) / (1 − null): 0 at chance, 1 for identical dictionaries. The "
        "number to compare variants of different size by.",
    ),
    (
        f"cosine ≥ {SHARED_AT}, joint",
        f"Share of matched pairs whose decoder rows have at least that |cosine|; joint, whose mean of decoder and "
        f"encoder cosine reaches it, matched by that mean. Paulo and Belrose call features shared from {SHARED_AT} on.",
    ),
    (
        "core",
        "Stable core: features found without the one-to-one matching, linked where they are each other’s nearest "
        "neighbours with at least that cosine; exactly one in every seed. It shrinks with every further seed.",
    ),
    (
        "alive, signed",
        "PW-MCC matched among features that fired at least once on the held-out tokens; and PW-MCC with the cosine "
        "itself in place of its absolute value, under its own best matching. Further down, with other definitions.",
    ),
    (
        "explanation ρ",
        "Whether features found more consistently are explained more alike: rank correlation (Spearman) of a matched "
        "pair’s cosine with the similarity of its two explanations, frequency held constant; raw, without that, which "
        "frequency alone can make large. The two explanations come from disjoint halves of the held-out text.",
    ),
    (
        "lift",
        "How much more alike the explanations of matched features are than those of random pairs of equal frequency "
        "(cosine of sentence embeddings). 0: no more than chance.",
    ),
    (
        "detection, fuzzing",
        "Whether an explanation predicts, on text that did not make it, in which examples its feature fires, and on "
        "which of their tokens. Explanations that predict nothing can be alike all the same.",
    ),
    (
        "L0, FVE, loss recovered, dead",
        "Quality on held-out tokens, mean over seeds: features active on a token; fraction of variance explained; how "
        "much of the language model’s next-token loss survives when it reads reconstructions (1: all of it, 0: as "
        "bad as zeros); share of features that never fired. Consistency means little without it.",
    ),
    (
        "Picking a winner",
        "The variant that agrees most was picked on these very seeds, so its value is a little too good: train it on "
        "new seeds before reporting it.",
    ),
)
