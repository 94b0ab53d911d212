"Chat models: how they are asked, paid and understood."
