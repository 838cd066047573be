"""The learning rate of healing: a short linear warm-up, then linear decay."""

import torch
import transformers

WARM_UP = 0.1


class LearningRate:
    """Sets the rate of the optimiser's next step, `done` steps of `steps` being over; `highest` is that of the peak.

    It is the schedule of transformers, held at its peak for two steps, so that neither the first nor the last step has
    a rate of 0.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, highest: float, steps: int, done: int = 0) -> None:
        self._done = done
        self._warm_up = max(1, round(WARM_UP * steps))
        for group in optimizer.param_groups:
            group["initial_lr"] = highest
        self._schedule: torch.optim.lr_scheduler.LambdaLR = transformers.get_linear_schedule_with_warmup(
            optimizer,
            self._warm_up,
            max(steps, self._warm_up + 1),
            last_epoch=done - (1 if done >= self._warm_up else 0),
        )

    def advance(self) -> None:
        """One more step of the optimiser is done."""
        self._done += 1
        if self._done != self._warm_up:
            self._schedule.step()
