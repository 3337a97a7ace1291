/** A program that Temper needs is missing or could not be fetched. `remedy` says what the user can do. */
export class ToolError extends Error {
  readonly code = 'tool_unavailable';
  constructor(
    message: string,
    readonly remedy: string,
  ) {
    super(`${message}\n${remedy}`);
    this.name = 'ToolError';
  }
}
