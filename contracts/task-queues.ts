/** Task queue of workflows and of the stages that need no accelerator, unless the configuration names another. */
export const defaultTaskQueue = 'temper';

/**
 * Task queue of the stages that run the engine in a child process: baseline, train, merge, evaluate. One at a time on each
 * worker. Derived from the workflow's own queue, so that a workflow finds it without configuration.
 */
export const gpuTaskQueue = (taskQueue: string) => `${taskQueue}-gpu`;
