"""Who people are: the token of the first start, sign-on by OpenID Connect, sessions in cookies."""
