"""What the log says when ComfyUI loads the pack into a Python that lacks something."""

import asyncio
import logging


def test_a_missing_library_is_one_line_at_start_and_one_for_its_nodes(comfyui, tmp_path, monkeypatch, caplog):
    from impasto import installation, nodes

    (tmp_path / "requirements.txt").write_text("impasto-nowhere>=1.2")
    (tmp_path / "broken.py").write_text("import impasto_nowhere")
    monkeypatch.setattr(installation, "REQUIREMENTS", tmp_path / "requirements.txt")
    monkeypatch.setattr(nodes, "__path__", [*nodes.__path__, str(tmp_path)])
    monkeypatch.setattr(nodes, "MODULES", ("broken", "memory"))
    with caplog.at_level(logging.WARNING):
        found = asyncio.run(nodes.ImpastoExtension().get_node_list())
    assert found  # the other module's
    start, of_the_nodes = caplog.records
    assert "lacks impasto-nowhere>=1.2. Stop ComfyUI, run " in start.message and "install.py" in start.message
    assert of_the_nodes.message == "Impasto's broken nodes are missing until impasto_nowhere is installed"
    assert not any(record.exc_info for record in caplog.records)


def test_nothing_is_said_where_nothing_is_missing(comfyui, caplog):
    from impasto import nodes

    with caplog.at_level(logging.WARNING):
        asyncio.run(nodes.ImpastoExtension().get_node_list())
    assert not [record.message for record in caplog.records if record.name.startswith("impasto")]


def test_the_trainer_is_refused_when_it_is_queued_and_not_after_encoding(comfyui, tmp_path, monkeypatch):
    from impasto import installation
    from impasto.nodes.training import ContinueTraining, FluxLoraTrainer

    assert FluxLoraTrainer.validate_inputs() is True
    (tmp_path / "requirements.txt").write_text("peft>=999")
    monkeypatch.setattr(installation, "REQUIREMENTS", tmp_path / "requirements.txt")
    for node in (FluxLoraTrainer, ContinueTraining):
        assert "The trainer cannot run: ComfyUI's Python lacks peft>=999" in node.validate_inputs()
