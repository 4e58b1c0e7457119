"""The LCM paper's Tables 2 and 3: what it prints for the methods that it compares itself with, and where from."""

from xmrank.supervised.published_lcm import Figures

UNI_LABEL_SETS = ("wikipedia", "pascal-sentence", "nus-wide-10k", "xmedianet")
MULTI_LABEL_SETS = ("ms-coco", "mirflickr")

TABLE_2: dict[str, tuple[Figures, ...]] = {
    "cca": ((0.30, 0.27, 0.29), (0.20, 0.20, 0.20), (0.17, 0.18, 0.18), (0.21, 0.21, 0.21)),
    "kernel_cca": ((0.43, 0.39, 0.41), (0.49, 0.45, 0.47), (0.35, 0.36, 0.36), (0.25, 0.27, 0.26)),
    "corr_ae": ((0.44, 0.42, 0.43), (0.53, 0.52, 0.53), (0.44, 0.49, 0.47), (0.47, 0.50, 0.49)),
    "LCM^Δ": ((0.62, 0.70, 0.66), (0.64, 0.66, 0.65), (0.73, 0.66, 0.70), (0.68, 0.58, 0.63)),
    "CMDN": ((0.49, 0.43, 0.46), (0.54, 0.53, 0.54), (0.49, 0.54, 0.52), (0.49, 0.52, 0.51)),
    "jfssl": ((0.46, 0.43, 0.45), (0.55, 0.54, 0.55), (0.51, 0.52, 0.52), (0.53, 0.52, 0.53)),
    "acmr": ((0.47, 0.41, 0.44), (0.54, 0.54, 0.54), (0.52, 0.54, 0.53), (0.54, 0.52, 0.53)),
    "jlslr": ((0.47, 0.44, 0.46), (0.57, 0.55, 0.56), (0.54, 0.53, 0.54), (0.54, 0.55, 0.55)),
    "MCMS": ((0.52, 0.46, 0.49), (0.60, 0.60, 0.60), (0.52, 0.55, 0.54), (0.54, 0.55, 0.55)),
    "CCL": ((0.51, 0.46, 0.49), (0.58, 0.56, 0.57), (0.51, 0.54, 0.53), (0.52, 0.54, 0.53)),
    "CM-GANs": ((0.52, 0.47, 0.50), (0.60, 0.60, 0.60), (0.54, 0.55, 0.55), (0.57, 0.55, 0.56)),
    "dscmr": ((0.52, 0.49, 0.51), (0.67, 0.67, 0.67), (0.56, 0.59, 0.58), (0.64, 0.65, 0.65)),
    "pan": ((0.52, 0.46, 0.49), (0.69, 0.69, 0.69), (0.59, 0.57, 0.58), (0.67, 0.66, 0.67)),
    "clip4cmr": ((0.60, 0.59, 0.60), (0.67, 0.66, 0.67), (0.60, 0.63, 0.62), (0.68, 0.71, 0.70)),
    "lcm": ((0.65, 0.84, 0.75), (0.74, 0.78, 0.76), (0.81, 0.71, 0.76), (0.84, 0.75, 0.80)),
}
"""Method → figures of each of UNI_LABEL_SETS. The rows of LCM are of two-stage search, all others by distance."""

TABLE_3: dict[str, tuple[Figures, ...]] = {
    "cfa": ((0.34, 0.38, 0.37), (0.58, 0.55, 0.57)),
    "cca": ((0.65, 0.66, 0.66), (0.71, 0.72, 0.72)),
    "multimodal DBN": ((0.36, 0.33, 0.35), (0.58, 0.56, 0.57)),
    "corr_ae": ((0.65, 0.67, 0.66), (0.71, 0.73, 0.72)),
    "dcca": ((0.64, 0.63, 0.64), (0.74, 0.75, 0.75)),
    "LCM^Δ": ((0.87, 0.86, 0.87), (0.74, 0.74, 0.74)),
    "ml_cca": ((0.64, 0.63, 0.64), (0.73, 0.74, 0.74)),
    "acmr": ((0.71, 0.71, 0.71), (0.74, 0.75, 0.75)),
    "dcdh": ((0.61, 0.60, 0.61), (0.74, 0.76, 0.75)),
    "gch": ((0.56, 0.56, 0.56), (0.76, 0.79, 0.78)),
    "dscmr": ((0.81, 0.81, 0.81), (0.75, 0.80, 0.78)),
    "algcn": ((0.84, 0.83, 0.84), (0.80, 0.82, 0.81)),
    "clip4cmr": ((0.77, 0.78, 0.78), (0.72, 0.74, 0.73)),
    "lcm": ((0.92, 0.93, 0.93), (0.94, 0.82, 0.88)),
}
"""Method → figures of each of MULTI_LABEL_SETS."""

NOT_FROM_FEATURES = {
    "CMDN": "stacks of Boltzmann machines on several features of each item",
    "CCL": "fine-grained patches of images and words, which a feature file does not hold",
    "MCMS": "recurrent attention over image regions and words",
    "CM-GANs": "convolutional generators that are trained with the images",
    "multimodal DBN": "deep belief networks of counts, pre-trained layer by layer",
}
"""Methods that are not built: what they need beyond one vector an item."""


def table_figures(dataset: str) -> dict[str, Figures]:
    """Method → what the paper prints for a set; empty for a set that neither table has."""
    if dataset in UNI_LABEL_SETS:
        return {method: figures[UNI_LABEL_SETS.index(dataset)] for method, figures in TABLE_2.items()}
    if dataset in MULTI_LABEL_SETS:
        return {method: figures[MULTI_LABEL_SETS.index(dataset)] for method, figures in TABLE_3.items()}
    return {}
