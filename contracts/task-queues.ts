/** The two kinds of task queue; the names themselves come from temporal.config.ts and default to these. */
export const taskQueues = {
  /** Workflows and the stages that need no accelerator. */
  orchestration: 'temper',
  /** Stages that run the engine in a child process: baseline, train, merge, evaluate. One at a time on each worker. */
  gpu: 'temper-gpu',
} as const;
