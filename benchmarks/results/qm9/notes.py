"""What stands around the tables of `qm9`."""

ABOUT = """SMILES strings of small molecules, one an example: native networks of one shape (128 wide, 6 layers) and a GPT-2 of \
that shape, each trained on one thread of a CPU on {molecules:,} molecules ({train_steps:,} steps of {batch}; there are \
{training:,}) with the recipe that the commands show. Of it the learning rate was chosen, by MDLM's training loss after 350 \
steps of short runs: 0.78 nats a token at 0.001, 0.84 at 0.003, 0.96 at 0.01. Sequences have {length} tokens; the end token \
fills them up and is learnt (`--learn_end`), so a sample is as long as the model makes it. The bound is that of the {tested:,} \
test molecules, their ends included.

The protocol is that of *Simple Guidance Mechanisms for Discrete Diffusion Models* (Schiff et al. 2024, arXiv:2412.10193) as its \
code has it ([discrete-diffusion-guidance](https://github.com/kuleshov-group/discrete-diffusion-guidance), commit `edb0f8c`). \
Its tables could not be opened here; what its authors show as a picture on \
[their page](https://discrete-diffusion-guidance.github.io) stands beside ours below. What differs from their runs:

| | the authors' code | here |
|---|---|---|
| molecules | about 133,000, 5 % held out | {known:,} (those that pass QM9's consistency check), 10 % held out |
| network | DiT, 768 wide, 12 layers | 128 wide, 6 layers |
| training | 25,000 steps of 2,048: 51 million molecules, some 400 times each | {molecules:,}: each {times:.1f} times |
| tokens | 40: `<pad>` behind the end is learnt, too; the first token is noised | 35: the end token fills up; the first is given |
| unique, novel | strings as written; novel as a share of the valid ones | canonical SMILES (RDKit); novel of the unique ones |"""

EVERY = """QM9 was made to have every neutral molecule of up to nine heavy atoms that the rules of GDB allow, so a novel one \
mostly breaks a rule: more is not better."""

UNGUIDED = """{num_samples:,} samples a row from one seed, at temperature 1, nothing sorted out. ± is the standard error over \
samples, of uniqueness the jackknife's. NFE are evaluations of the network, each for the whole batch. Known are all molecules \
of QM9, held-out ones too. {every}

The demo ([examples/molecules](../examples/molecules)) was trained for {rounds} times as many steps as the others, and its \
weights began with a deviation of 0.06 instead of 0.02: in runs of 400 steps that made its training loss 0.64 nats a token \
instead of 0.72 (0.65 at twice the learning rate; 0.1 was behind after 150). The other rows have not been trained again."""

GUIDED = """Guided towards "above the 90th percentile" of the number of rings (more than 3) or of QED (more than 0.554): \
D-CFG, {steps} steps, {num_samples:,} samples a row, by models trained on {labelled:,} molecules, of which one in ten was \
shown without its label. At scale 0 the network is told no label, at 1 the label. Novel counts as a share of all samples, and \
the mean is that of the novel molecules, as the authors have it. Theirs are read off their picture (1,024 samples; ± 0.2 \
percentage points and 0.01 rings for reading). A ring is two equal digits, often far apart, and models of this size rarely set \
both: of strings that are asked to have four rings and more few are molecules, so that the means of these rows are over few. \
QED asks for no such thing."""

PICTURE = {
    "mdlm": {1: (273, 4.52), 2: (215, 4.85), 3: (145, 5.01)},
    "udlm": {1: (277, 4.54), 2: (229, 4.75), 3: (216, 4.88)},
}
"""Of the authors, for rings: by guidance scale, the novel molecules among 1,024 and their mean number of rings."""
