/* Opens files of models, and reads and writes with each that opens; first words: a model to restore every other file
 * into, as if it were a state. Built with sanitizers by tests/pipeline/export/test_damaged.py. */
#include "../../../pipeline/export/runtime.c"
#include <stdio.h>

static void *load(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    void *data;
    if (!file || fseek(file, 0, SEEK_END)) abort();
    *size = (size_t)ftell(file);
    rewind(file);
    data = malloc(*size ? *size : 1); /* exactly: one byte beyond is an error */
    if (fread(data, 1, *size, file) != *size) abort();
    fclose(file);
    return data;
}

static void use(h2q_model *model)
{
    uint64_t random = 1;
    uint32_t i;
    for (i = 0; i < 40; i++) h2q_step(model, i * 7 % h2q_vocab(model));
    for (i = 0; i < 3; i++) h2q_step(model, (uint32_t)abs(h2q_sample(model, 1.0f, &random)));
}

int main(int count, char **words)
{
    size_t size, host_size;
    void *host = load(words[1], &host_size);
    int error, i, opened = 0, restored = 0;
    h2q_model *into = h2q_open(host, host_size, &error);
    if (!into) return 3;
    for (i = 2; i < count; i++) {
        void *data = load(words[i], &size);
        h2q_model *model = h2q_open(data, size, &error);
        if ((model == NULL) != (error != H2Q_OK)) return 4;
        if (model) use(model), opened++;
        h2q_close(model);
        if (h2q_state_restore(into, data, size) == H2Q_OK) use(into), restored++;
        free(data);
    }
    printf("%d %d\n", opened, restored);
    h2q_close(into);
    free(host);
    return 0;
}
