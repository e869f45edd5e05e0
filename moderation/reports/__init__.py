"""Reports: how the review goes, exports, and statements of reasons."""
