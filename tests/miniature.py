"""Small datasets in the formats of the published ones, with scenes of the stand-in's art.

They test readers, training and evaluation without any download: everything but the images is as in the
originals. Each function writes into a folder and returns the exact mask of every sample by its key. The same
arguments write the same bytes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from stand_in_art import stand_in_world

from ldznet.masks.checks import Mask
from ldznet.research.scenes.icons import IconPhrase, IconScene

Folder = str | os.PathLike[str]
Size = tuple[int, int]


def write_phrasecut(
    folder: Folder,
    scenes: int = 8,
    *,
    seed: int = 0,
    size: Size = (96, 128),
    splits: Sequence[str] = ("train", "val", "test", "miniv"),
) -> dict[str, Mask]:
    """PhraseCut's folder VGPhraseCut_v0 -> masks by task_id; the scenes go to the splits in turn."""
    root = Path(folder)
    (root / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    tasks: dict[str, list[dict[str, Any]]] = {split: [] for split in splits}
    masks: dict[str, Mask] = {}
    numbers = count(1)  # of Visual Genome's annotations; several may be of one thing
    for image_id, scene in enumerate(_scenes(scenes, seed, size), start=1):
        split = splits[(image_id - 1) % len(splits)]
        Image.fromarray(scene.image).save(root / "images" / f"{image_id}.jpg", quality=95)
        images.append(
            {
                "image_id": image_id,
                "coco_id": image_id if image_id % 2 else None,
                "flickr_id": None,
                "width": size[1],
                "height": size[0],
                "url": f"https://example.org/{image_id}.jpg",
                "split": split,
            }
        )
        for phrase in present_phrases(scene):
            task = _task(image_id, scene, phrase, numbers)
            tasks[split].append(task)
            masks[task["task_id"]] = phrase.mask
    _write(root / "image_data_split.json", images)
    _write(root / "name_att_rel_count.json", _frequencies([task for some in tasks.values() for task in some]))
    for split, some in tasks.items():
        _write(root / f"refer_{split}.json", some)
        kept = ("task_id", "image_id", "phrase", "phrase_structure")
        _write(root / f"refer_input_{split}.json", [{name: task[name] for name in kept} for task in some])
    return masks


def write_aigi(
    folder: Folder,
    form: Literal["masks", "coco", "labelme"] = "masks",
    scenes: int = 4,
    *,
    seed: int = 0,
    size: Size = (96, 128),
    segmentation: Literal["text", "numbers", "polygons"] = "text",
) -> dict[str, Mask]:
    """Images with captions in one of three forms -> masks by "<image>/<caption>".

    `segmentation` is how COCO's masks are written: run lengths as text or as numbers, or polygons.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    masks: dict[str, Mask] = {}
    images, annotations, names = list[dict[str, Any]](), list[dict[str, Any]](), dict[str, int]()
    for number, scene in enumerate(_scenes(scenes, seed, size), start=1):
        name = f"scene{number:03}.png"
        Image.fromarray(scene.image).save(root / name)
        captions = {phrase.text.title(): phrase.mask for phrase in present_phrases(scene)}
        masks |= {f"{name}/{caption}": mask for caption, mask in captions.items()}
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        shapes: list[dict[str, Any]] = []
        for caption, mask in captions.items():
            if form == "masks":
                picture = Image.fromarray(mask.astype(np.uint8) * 255)
                picture.save(root / f"{Path(name).stem}_{caption.replace(' ', '_')}.png")
            shapes += [{"label": caption, "points": points, "shape_type": "polygon"} for points in outlines(mask)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names.setdefault(caption, len(names) + 1),
                    "iscrowd": 0,
                    "segmentation": _segmentation(mask, segmentation),
                }
            )
        if form == "labelme":
            document = {"imagePath": name, "imageData": None, "imageHeight": size[0], "imageWidth": size[1]}
            _write((root / name).with_suffix(".json"), {"version": "5.5.0", "shapes": shapes, **document})
    if form == "coco":
        categories = [{"id": number, "name": name} for name, number in names.items()]
        _write(root / "annotations.json", {"images": images, "categories": categories, "annotations": annotations})
    return masks


def outlines(mask: Mask) -> list[list[list[float]]]:
    """Polygons [x, y] through the centres of the outermost pixels; a part with a hole is cut in two through it.

    Pillow and scikit-image both fill them to the mask again, but for parts of one or two pixels, which are left
    out.
    """
    found, levels = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for contour, (_, _, _, parent) in zip(found, levels[0] if found else (), strict=True):
        if parent >= 0:  # the outline of a hole
            columns = np.arange(mask.shape[1]) < (int(contour[..., 0].min()) + int(contour[..., 0].max())) // 2
            return outlines(mask & columns) + outlines(mask & ~columns)
    return [contour[:, 0].astype(float).tolist() for contour in found if len(contour) >= 3]


def run_lengths(mask: Mask) -> list[int]:
    """Return COCO's run lengths of a mask (H, W): pixels off, on, off ..., column by column."""
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def miniature_scene(seed: int, size: Size) -> IconScene:
    """Return the scene of a seed, by one of two artists."""
    return stand_in_world().scene(seed, ("noto", "twemoji")[seed % 2], size)


def present_phrases(scene: IconScene) -> list[IconPhrase]:
    """Return different phrases, six at most, for what is in a scene."""
    phrases = [scene.phrase(number) for number in range(12)]
    return list({phrase.text: phrase for phrase in phrases if phrase}.values())[:6]


def _scenes(number: int, seed: int, size: Size) -> Iterator[IconScene]:
    for index in range(number):
        yield miniature_scene(seed + index, size)


def _task(image_id: int, scene: IconScene, phrase: IconPhrase, numbers: Iterator[int]) -> dict[str, Any]:
    instances = [mask for mask in scene.masks if (mask & phrase.mask).any()]
    ids = [next(numbers) for _ in instances]
    return {
        "task_id": f"{image_id}__{'_'.join(map(str, ids))}",
        "image_id": image_id,
        "ann_ids": ids,
        "instance_boxes": [list(cv2.boundingRect(mask.astype(np.uint8))) for mask in instances],
        "Polygons": [outlines(mask) for mask in instances],
        "phrase": phrase.text,
        "phrase_structure": _structure(phrase),
    }


def _structure(phrase: IconPhrase) -> dict[str, Any]:
    """What of the phrase is the name, an attribute or a relation."""
    head, relations = phrase.text, []
    for relation in ("on the", "at the"):
        if f" {relation} " in head:
            head, _, other = head.partition(f" {relation} ")
            relations = [[relation, other]]
    *attributes, name = head.removeprefix("the ").removeprefix("a ").removeprefix("an ").split()
    return {
        "name": name,
        "attributes": attributes,
        "relation_ids": list(range(len(relations))),
        "relation_descriptions": relations,
        "type": phrase.kind,
    }


def _frequencies(tasks: Sequence[dict[str, Any]]) -> dict[str, list[tuple[str, int]]]:
    structures = [task["phrase_structure"] for task in tasks]
    return {
        "cat": Counter(item["name"] for item in structures).most_common(),
        "att": Counter(word for item in structures for word in item["attributes"]).most_common(),
        "rel": Counter(pair[0] for item in structures for pair in item["relation_descriptions"]).most_common(),
    }


def _segmentation(mask: Mask, kind: str) -> Any:
    if kind == "polygons":  # COCO counts from the corners of pixels
        return [[value + 0.5 for point in points for value in point] for points in outlines(mask)]
    runs = {"size": list(mask.shape), "counts": run_lengths(mask)}
    if kind == "text":
        runs["counts"] = coco_mask.frPyObjects(runs, *mask.shape)["counts"].decode()
    return runs


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
