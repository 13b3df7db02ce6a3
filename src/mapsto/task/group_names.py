"""Names of columns that say which rows belong together, such as those of one speaker, by what the rows have in common.

A name is compared without case, spaces, signs and a last letter or digit that tells the sides of a pair, as in `speaker_a`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

# What the rows of a group have in common, each with the names of its columns.
GROUP_NAMES: Mapping[str, frozenset[str]] = {
    noun: frozenset(names.split())
    for noun, names in {
        "speaker": "speaker speakerid speakername spk spkid spkr clientid talker narrator reader actor singer voice voiceid who "
        "说话人 发言人 讲话人 朗读者 配音",
        "dialogue": "dialogue dialog dialogueid dialogid dog conversation conversationid call callid meeting meetingid 对话",
        "session": "session sessionid chapter chapterid episode episodeid 会话",
        "file": "file fileid recording recordingid originalfile sourcefile longfile 录音 文件",
        "sentence": "sentence sentenceid transcript transcription utterance prompt promptid 句子 文本",
    }.items()
}
# The last characters of the names of two columns, one for each side of a pair.
SIDES = "ab12"


def group_noun(column: str) -> str | None:
    """Return what rows with an equal cell in a column have in common, by the name of the column; None for another column."""
    name = "".join(character for character in unicodedata.normalize("NFC", column).casefold() if character.isalnum())
    for spelling in (name, name[:-1] if name[-1:] in SIDES else name):
        for noun, names in GROUP_NAMES.items():
            if spelling in names:
                return noun
    return None
