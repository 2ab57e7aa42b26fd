"""Operations on arrays, each in the forms that CPUs, GPUs and TPUs run well; `backend` says which one is traced."""
