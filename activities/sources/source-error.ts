/** A model or dataset that the user named and that cannot be had. The message says what was expected; the caller knows the path in the input. */
export class SourceError extends Error {
  readonly code = 'bad_source';
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'SourceError';
  }
}
