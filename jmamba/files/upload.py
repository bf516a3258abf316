"""Uploading a checkpoint's folder to the Hugging Face Hub."""

import re
from pathlib import Path

from jmamba.files.errors import CheckpointError
from jmamba.files.folders import MODEL_FILES, PARAMETERS
from jmamba.files.hub import why_unreachable


def check_repository_name(repo_id: str) -> None:
    """Raise unless a name may be that of a repository, org/name or name.

    Raises:
      CheckpointError: it may not.
    """
    if not re.fullmatch(r"([\w\-.]+/)?[\w\-.]+", str(repo_id)):
        raise CheckpointError(
            f"{str(repo_id)!r} is no name of a repository on the Hub; give org/name, "
            "or name for one of your own."
        )


def upload(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    message: str,
    create_pr: bool = False,
) -> str:
    """Upload a folder in one commit, making the repository if need be.

    Files of the model that was there and is not in the folder, such as old shards, are
    deleted in the same commit; all others stay.

    Args:
      folder: the folder.
      repo_id: org/name, or name for one of the user's own.
      private: whether a new repository is private; None for the account's default.
      revision: branch to commit to; None for main.
      token: of the account; None for the one that was logged in with.
      message: of the commit.
      create_pr: whether to open a pull request instead of committing.

    Returns:
      Address of the commit.

    Raises:
      CheckpointError: the Hub cannot be reached, or does not let the user do this.
    """
    from huggingface_hub import HfApi, errors

    api = HfApi(token=token)
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        done = api.upload_folder(
            folder_path=folder,
            repo_id=repo.repo_id,
            revision=revision,
            commit_message=message,
            create_pr=create_pr,
            delete_patterns=[*MODEL_FILES, f"{PARAMETERS}/*"],
        )
    except errors.OfflineModeIsEnabled as error:
        raise CheckpointError(
            f"Nothing was uploaded to {repo_id}: {why_unreachable(error)}"
        ) from error
    except errors.HfHubHTTPError as error:
        raise CheckpointError(_explain_refusal(repo_id, revision, error)) from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{repo_id!r} is no name on the Hub: {error}") from error
    # the HTTP client's base class, which depends on the version of the Hub client
    except (OSError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        raise CheckpointError(
            f"Nothing was uploaded to {repo_id}: {why_unreachable(error)}"
        ) from error
    return done.pr_url or done.commit_url


def _explain_refusal(repo_id: str, revision: str | None, error) -> str:
    status = error.response.status_code
    what = f"Nothing was uploaded to {repo_id}: the Hub answered {status}"
    if status in (401, 403):
        return (
            f"{what}. Type hf auth login with a token that may write there, or give it "
            "as token=..."
        )
    if status == 404 and revision is not None:
        return f"{what}. Is there a branch {revision!r}? Leave it out for main."
    return f"{what} ({str(error).strip().splitlines()[0]}). Try again later."
