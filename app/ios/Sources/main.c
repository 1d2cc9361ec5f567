/* Everything is in the Rust library: the window, the chat core, and the model or its proof. */
int proofmark_window(void);

int main(void) { return proofmark_window(); }
