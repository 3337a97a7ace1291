/** A reference to one immutable object in the artifact store. What travels between stages instead of the bytes. */
export interface ArtifactRef {
  /** `file:///…` or `s3://bucket/key`. */
  uri: string;
  /** Lower-case hex SHA-256 of the bytes. */
  sha256: string;
  /** Size in bytes. */
  bytes: number;
  /** IANA media type, e.g. `application/jsonl`. */
  mediaType: string;
}

/** A file with its name inside a directory-like artifact (an adapter, a merged model, a base model). */
export interface NamedArtifact extends ArtifactRef {
  /** Path relative to the directory, with `/` separators, e.g. `adapter_config.json`. */
  name: string;
}
