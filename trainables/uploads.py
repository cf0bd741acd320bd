"""Old import path of `trainables.inference.uploads`, for model versions registered earlier."""

from trainables.inference.uploads import UploadError, decode_uploads

__all__ = ["UploadError", "decode_uploads"]
