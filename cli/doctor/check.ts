/** What one check of `temper doctor` found. */
export interface Finding {
  name: string;
  /** `warning`: Temper works, but slower or not in full. */
  state: 'ok' | 'warning' | 'problem';
  detail: string;
  /** What to do about it. */
  remedy?: string;
}

export const ok = (name: string, detail: string): Finding => ({ name, state: 'ok', detail });
export const warning = (name: string, detail: string, remedy: string): Finding => ({ name, state: 'warning', detail, remedy });
export const problem = (name: string, detail: string, remedy: string): Finding => ({ name, state: 'problem', detail, remedy });

/** A check that throws has found a problem: what it threw. */
export async function finding(name: string, remedy: string, check: () => Promise<Finding>): Promise<Finding> {
  return check().catch((error: unknown) => problem(name, error instanceof Error ? error.message.split('\n')[0] : String(error), remedy));
}
