import { WorkflowFailedError, WorkflowNotFoundError } from '@temporalio/client';
import { ActivityFailure, ApplicationFailure, CancelledFailure, ChildWorkflowFailure, TerminatedFailure, TimeoutFailure } from '@temporalio/common';
import { InvalidInputError } from '../contracts/errors.js';
import { failureTypes, type Problem } from '../contracts/pipeline.js';
import { ToolError } from '../infra/tools/tool-error.js';
import { StackRunningError } from '../infra/dev/stack.js';
import { CliError } from './cli-error.js';
import { exitCodes } from './exit-codes.js';

export interface ErrorDescription {
  exitCode: number;
  message: string;
  /** Set when the input was wrong. */
  problems?: readonly Problem[];
}

/** What to tell about an error, and how to exit. */
export function describeError(error: unknown): ErrorDescription {
  if (error instanceof CliError) return { exitCode: exitCodes[error.code], message: error.message };
  if (error instanceof InvalidInputError) return invalidInput(error.problems);
  if (error instanceof ToolError || error instanceof StackRunningError) return { exitCode: exitCodes.failed, message: error.message };
  if (error instanceof WorkflowNotFoundError) return { exitCode: exitCodes.unreachable, message: `${error.workflowId}: no such run on this server` };
  if (error instanceof WorkflowFailedError) return describeFailure(error.cause);
  return { exitCode: exitCodes.failed, message: error instanceof Error ? (error.stack ?? error.message) : String(error) };
}

function describeFailure(cause: Error | undefined): ErrorDescription {
  if (cause instanceof ActivityFailure || cause instanceof ChildWorkflowFailure) {
    const inner = describeFailure(cause.cause);
    return cause instanceof ActivityFailure && !inner.problems ? { ...inner, message: `${cause.activityType}: ${inner.message}` } : inner;
  }
  if (cause instanceof ApplicationFailure && cause.type === failureTypes.invalidInput) {
    const problems = problemsIn(cause.details);
    return problems.length > 0 ? invalidInput(problems) : { exitCode: exitCodes.badInput, message: cause.message };
  }
  if (cause instanceof CancelledFailure) return { exitCode: exitCodes.failed, message: 'The run was cancelled' };
  if (cause instanceof TerminatedFailure) return { exitCode: exitCodes.failed, message: 'The run was terminated' };
  if (cause instanceof TimeoutFailure) return { exitCode: exitCodes.failed, message: cause.cause ? `timed out: ${cause.cause.message}` : cause.message };
  return { exitCode: exitCodes.failed, message: cause?.message ?? 'The run failed' };
}

/** The failure's details hold a list of problems, directly or one level down. */
function problemsIn(details: unknown): Problem[] {
  const list = Array.isArray(details) ? details.flat(2) : [];
  return list.filter((item): item is Problem => typeof item === 'object' && item !== null && 'path' in item && 'message' in item);
}

function invalidInput(problems: readonly Problem[]): ErrorDescription {
  const lines = problems.map(({ path, message }) => `  ${path}: ${message}`);
  const count = problems.length === 1 ? 'a problem' : `${problems.length} problems`;
  return { exitCode: exitCodes.badInput, message: [`The input has ${count}:`, ...lines].join('\n'), problems };
}
