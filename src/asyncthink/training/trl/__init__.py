"""Both stages on TRL's trainers: for any Hugging Face model, and GPUs.

Format fine-tuning (`sft.py`) is our rows and batches on `SFTTrainer`, with adapters or without. Reinforcement learning (`rl.py`) is
organizer-worker policy optimisation on `AsyncGRPOTrainer`: ours are the episodes, the reward, the advantage and which
tokens are trained; model, packing, loss, optimizer, checkpoints and the transfer of weights are TRL's. Three things are
held to, which TRL does not do by itself:

    whole episodes   a step's rows are sampled by one version of the policy, and trained together or not at all
    one step         is one optimizer step: its rows are dealt out to a fixed number of micro-batches
    one mean         TRL averages over the tokens of each micro-batch; an advantage is scaled so that every trained
                     token of the step weighs the same. The loss is proportional to it, clipping included.

With one process it is on policy.
"""
