"""bf16 on a CPU that has no instructions for it is slower than fp32: a job that uses it says so."""

from types import SimpleNamespace

import pytest
import torch

from xmrank.config import TrainEncoderConfig
from xmrank.runtime import bf16_support
from xmrank.runtime.bf16_support import lacks_bf16
from xmrank.train_encoder import stage as encoder_stage


@pytest.mark.parametrize(("flags", "lines"), [("avx512f avx512_vnni", 1), ("avx512f avx512_bf16", 0)])
def test_bf16_on_a_cpu_without_it_is_a_warning_of_one_line(tmp_path, monkeypatch, capsys, flags, lines):
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    monkeypatch.setattr(bf16_support, "lacks_bf16", lambda: lacks_bf16(cpu_info))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bf16_support.warn_of_slow_bf16("embed: --precision bf16")
    line = "embed: --precision bf16: this CPU has no bf16 instructions; it will be slower than fp32\n"
    assert capsys.readouterr().err == line * lines


def test_train_encoder_warns_before_it_trains(monkeypatch, capsys):
    def stop(*_):
        raise RuntimeError("no training here")

    monkeypatch.setattr(bf16_support, "lacks_bf16", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(encoder_stage, "train_on_cluster", stop)
    for autocast in (True, False):
        with pytest.raises(RuntimeError, match="no training here"):
            encoder_stage.run_training(SimpleNamespace(work=None), TrainEncoderConfig(autocast=autocast))
        assert ("train_encoder: --autocast: this CPU has no" in capsys.readouterr().err) == autocast
