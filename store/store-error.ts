export type StoreErrorCode =
  /** The URI or key cannot name an object. */
  | 'bad_uri'
  /** No object under this key. */
  | 'missing'
  /** The object's bytes are not those its reference promises. */
  | 'corrupt'
  | 'no_bucket'
  /** Credentials missing, unknown, wrong or without the permission. */
  | 'denied'
  | 'unreachable'
  /** Anything else the storage said. */
  | 'failed';

/** A failure of the artifact store. The message reads "subject: what is wrong". */
export class StoreError extends Error {
  constructor(readonly code: StoreErrorCode, readonly subject: string, readonly detail: string, options?: ErrorOptions) {
    super(`${subject}: ${detail}`, options);
    this.name = 'StoreError';
  }
}
